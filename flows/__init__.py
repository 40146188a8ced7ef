"""When and where it is computed. Prefect, and only here."""
