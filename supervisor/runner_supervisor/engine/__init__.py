"""One llama-server child: how it is started, watched, restarted and ended."""
