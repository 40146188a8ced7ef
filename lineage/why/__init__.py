"""Why a document is in a model, or isn't: `pedigree why`."""
