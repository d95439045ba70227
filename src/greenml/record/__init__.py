"""The run record: the types of run.json, the file, and importers of figures that other tools measured."""
