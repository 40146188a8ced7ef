variable "bucket" {
  description = "Name of the bucket that holds the DVC remote and the scratch of trainings."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "A bucket is named by 3 to 63 lower-case letters, digits and hyphens."
  }
}

variable "prefix" {
  description = "Where in the bucket the DVC remote is: the remote's URL is s3://BUCKET/PREFIX."
  type        = string
  default     = "dvc"

  validation {
    condition     = can(regex("^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", var.prefix))
    error_message = "A prefix has no slash at its beginning or end."
  }
}

variable "scratch" {
  description = "Where in the bucket work in progress is: PEDIGREE_SCRATCH is s3://BUCKET/SCRATCH."
  type        = string
  default     = "scratch"

  validation {
    condition     = can(regex("^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", var.scratch))
    error_message = "A prefix has no slash at its beginning or end."
  }
}

variable "scratch_days" {
  description = "Days after which a checkpoint in scratch that nobody wrote again is removed; longer than any pause of a training."
  type        = number
  default     = 30

  validation {
    condition     = var.scratch_days >= 7
    error_message = "At least 7: a training that waits for a machine must find its checkpoint."
  }
}

variable "noncurrent_days" {
  description = "Days for which a deleted or overwritten object can be brought back."
  type        = number
  default     = 30

  validation {
    condition     = var.noncurrent_days >= 1
    error_message = "At least 1."
  }
}

variable "builders" {
  description = "ARNs of the roles or users that may take the builder's role: those of workers and nodes."
  type        = list(string)

  validation {
    condition     = length(var.builders) > 0
    error_message = "Name at least one: somebody must build."
  }
}

variable "readers" {
  description = "ARNs of the roles or users that may take the reader's role: those who only pull."
  type        = list(string)
  default     = []
}

variable "tags" {
  description = "Tags of everything that is made here."
  type        = map(string)
  default     = { project = "pedigree" }
}
