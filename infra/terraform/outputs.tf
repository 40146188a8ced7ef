output "remote" {
  description = "The URL of the DVC remote: dvc remote add --default store URL."
  value       = "s3://${aws_s3_bucket.store.id}/${var.prefix}"
}

output "scratch" {
  description = "What PEDIGREE_SCRATCH is set to."
  value       = "s3://${aws_s3_bucket.store.id}/${var.scratch}"
}

output "builder_role" {
  description = "ARN of the role of workers and nodes."
  value       = aws_iam_role.builder.arn
}

output "reader_role" {
  description = "ARN of the role of those who only pull; null if there are none."
  value       = one(aws_iam_role.reader[*].arn)
}
