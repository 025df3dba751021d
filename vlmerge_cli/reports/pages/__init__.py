"""What each kind of record is shown as: one file a page."""
