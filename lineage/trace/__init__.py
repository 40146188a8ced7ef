"""Which documents were trained on when: `pedigree trace`."""
