"""Video to capture folder: ingest, landmarks, matte, quality, track, report."""
