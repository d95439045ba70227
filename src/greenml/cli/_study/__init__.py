"""The commands of ``greenml study``: a file each, found by being here; its ``command`` is the command."""
