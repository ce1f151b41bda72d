"""Other people's data sets: one small reader for each layout, and the importer that makes captures of them."""
