"""The review site: a build, its versions and its documents as a folder of pages that open from disk.

    git history, the files of a build, records/  ->  index.html, build.html, changes.html, documents.html

Nothing in it is fetched from anywhere. Each page is whole: its style, its script and its data stand in it.
"""

from lineage.report.pages import write_report

__all__ = ["write_report"]
