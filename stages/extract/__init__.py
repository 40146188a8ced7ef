"""Extract documents from the files of a source: read, clean, and measure what a rule can ask for."""
