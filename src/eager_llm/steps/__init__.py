"""The pipeline's steps as plain functions: folders in, folders out. Components are thin over these."""
