"""What a build tells the tools of others: OpenLineage, CycloneDX, Croissant, cards, the EU's public summary."""
