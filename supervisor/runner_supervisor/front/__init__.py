"""What clients talk to: gate (who), relay (bytes), control (health, metrics, admin)."""
