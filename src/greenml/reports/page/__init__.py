"""The HTML pages: Jinja2 templates, their style and script, and what fills them in."""
