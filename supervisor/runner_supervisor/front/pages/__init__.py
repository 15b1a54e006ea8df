"""What people look at: the status page, the chat playground, and the events that keep the page up to date."""
