"""report.html: a run in one file that loads nothing from elsewhere."""
