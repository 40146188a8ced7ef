"""What each rule of a source's filter drops, and what another threshold would change: `pedigree rules`."""
