"""The bundled tables. Sources, dates and licences: SOURCES.md."""
