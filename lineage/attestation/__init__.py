"""Attestations: what each executed stage read, ran and wrote, who ran it and when; made, signed, read, checked.

records/filter-papers/<sha256 of the file>.json  ->  Record
"""

from lineage.attestation.records import Record, read_records, records_of

__all__ = ["Record", "read_records", "records_of"]
