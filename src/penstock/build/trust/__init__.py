"""Who made a version of what: attestation, bill of materials, keys, building again."""
