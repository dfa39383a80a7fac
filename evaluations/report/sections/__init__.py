"""The sections of report.html: one function a section, one module a subject."""
