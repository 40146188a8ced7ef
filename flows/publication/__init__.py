"""A build becomes a version: compared, tagged, fetched, rolled back."""
