"""The stage download, see __main__.py."""
