"""Makes llama-server for this machine: source, toolchain, plan, compile, manifest."""
