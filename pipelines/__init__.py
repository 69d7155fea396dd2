"""Ray jobs that read like the diagram in the README; no domain logic lives here."""
