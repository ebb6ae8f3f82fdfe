"""What crosses a boundary: Arrow schemas, the manifest, errors, and the way files are committed."""
