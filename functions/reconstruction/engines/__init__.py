"""One adapter a reconstruction engine, all with one convention."""
