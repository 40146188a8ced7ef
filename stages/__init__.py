"""What is computed. A stage reads files and writes files, and knows neither DVC nor Prefect."""
