"""Raw records on disk: day files, their readers, and what tidies them."""
