"""Where a run's objects come from, if the bucket is not listed: a manifest, or an S3 Inventory report."""
