"""The Terraform files: formatted, consistent, and with no more rights than DVC and the trainer need.

The provider can't be had where the tests run, so `terraform validate` isn't one of them.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "infra" / "terraform"
TEXT = "\n".join(path.read_text() for path in sorted(FOLDER.glob("*.tf")))
# What s3fs and DVC call: to list, read, write in parts, and delete.
BUILDER = {"AbortMultipartUpload", "DeleteObject", "GetObject", "ListMultipartUploadParts", "PutObject"}
BUCKET = {"GetBucketLocation", "ListBucket", "ListBucketMultipartUploads"}


def block(kind: str, name: str) -> str:
    """The text of `kind` "name"."""
    begin = TEXT.index(f'{kind} "{name}"')
    return TEXT[begin : TEXT.index("\n}\n", begin)]


@pytest.mark.skipif(not shutil.which("terraform"), reason="needs terraform")
def test_terraform_would_format_nothing_otherwise():
    done = subprocess.run(["terraform", "fmt", "-check", "-diff", FOLDER], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_referred_to_is_declared():
    variables = set(re.findall(r'^variable "(\w+)"', TEXT, re.MULTILINE))
    declared = set(re.findall(r'^resource "(\w+)" "(\w+)"', TEXT, re.MULTILINE))
    documents = set(re.findall(r'^data "aws_iam_policy_document" "(\w+)"', TEXT, re.MULTILINE))

    assert set(re.findall(r"var\.(\w+)", TEXT)) == variables
    assert (
        set(re.findall(r"(?<!data\.)\b(aws_\w+)\.(\w+)", TEXT))
        - {("aws_iam_policy_document", name) for name in documents}
        <= declared
    )
    assert set(re.findall(r"data\.aws_iam_policy_document\.(\w+)", TEXT)) == documents
    for name in variables:
        assert re.search(r"description\s+=", block("variable", name))


def test_the_bucket_is_private_versioned_encrypted_and_by_tls_only():
    access = block('resource "aws_s3_bucket_public_access_block"', "store")

    assert access.count("= true") == 4
    assert 'status = "Enabled"' in block('resource "aws_s3_bucket_versioning"', "store")
    assert "sse_algorithm" in block('resource "aws_s3_bucket_server_side_encryption_configuration"', "store")
    assert 'variable = "aws:SecureTransport"' in block('data "aws_iam_policy_document"', "tls_only")


def test_a_builder_may_do_what_dvc_and_the_trainer_do_and_a_reader_may_read():
    builder, reader = (
        set(re.findall(r'"s3:([A-Z]\w+)"', block('data "aws_iam_policy_document"', name)))
        for name in ("builder", "reader")
    )

    assert builder == BUILDER | BUCKET
    assert reader == {"GetObject", "GetBucketLocation", "ListBucket"}
    assert '"s3:*"' not in block('data "aws_iam_policy_document"', "builder")


def test_only_work_in_progress_expires():
    rules = block('resource "aws_s3_bucket_lifecycle_configuration"', "store").split("  rule {")[1:]

    expiring = [rule for rule in rules if re.search(r"(?<!_)expiration \{\s+days", rule)]
    assert [re.findall(r'prefix = "(.*)"', rule) for rule in expiring] == [
        ["${var.scratch}/"],
        ["${var.prefix}/handover/"],
    ]
    assert any("abort_incomplete_multipart_upload" in rule for rule in rules)
    assert sum("noncurrent_version_expiration" in rule for rule in rules) == 3
