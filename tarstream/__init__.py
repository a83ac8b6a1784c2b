"""A streaming archive gateway: many remote files as one archive that is never stored."""
