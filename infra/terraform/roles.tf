# Two roles: who builds may write what DVC and the trainer write; who only pulls may read.

locals {
  bucket  = aws_s3_bucket.store.arn
  remote  = "${local.bucket}/${var.prefix}/*"
  scratch = "${local.bucket}/${var.scratch}/*"
}

data "aws_iam_policy_document" "builder" {
  # Of the whole bucket, which holds nothing else: with a condition on s3:prefix, S3 answers 403 and not 404 for an object
  # that isn't there, which every client takes for wrong credentials.
  statement {
    sid       = "List"
    actions   = ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"]
    resources = [local.bucket]
  }

  # Push, pull and `pedigree store gc` of the remote; checkpoints and leases of scratch. To delete makes a marker:
  # versions stay for noncurrent_days, and nobody with this role can remove them.
  statement {
    sid = "UseOwnObjects"
    actions = [
      "s3:AbortMultipartUpload",
      "s3:DeleteObject",
      "s3:GetObject",
      "s3:ListMultipartUploadParts",
      "s3:PutObject",
    ]
    resources = [local.remote, local.scratch]
  }
}

data "aws_iam_policy_document" "reader" {
  statement {
    sid       = "List"
    actions   = ["s3:GetBucketLocation", "s3:ListBucket"]
    resources = [local.bucket]
  }

  statement {
    sid       = "ReadRemote"
    actions   = ["s3:GetObject"]
    resources = [local.remote]
  }
}

data "aws_iam_policy_document" "trust" {
  for_each = {
    for role, names in { builder = var.builders, reader = var.readers } : role => names if length(names) > 0
  }

  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "AWS"
      identifiers = each.value
    }
  }
}

resource "aws_iam_role" "builder" {
  name               = "${var.bucket}-builder"
  assume_role_policy = data.aws_iam_policy_document.trust["builder"].json
  tags               = var.tags
}

resource "aws_iam_role_policy" "builder" {
  name   = "store"
  role   = aws_iam_role.builder.id
  policy = data.aws_iam_policy_document.builder.json
}

# Only if there is somebody to take it: a role that nobody may take can't be made.
resource "aws_iam_role" "reader" {
  count              = length(var.readers) > 0 ? 1 : 0
  name               = "${var.bucket}-reader"
  assume_role_policy = data.aws_iam_policy_document.trust["reader"].json
  tags               = var.tags
}

resource "aws_iam_role_policy" "reader" {
  count  = length(var.readers) > 0 ? 1 : 0
  name   = "store"
  role   = aws_iam_role.reader[0].id
  policy = data.aws_iam_policy_document.reader.json
}
