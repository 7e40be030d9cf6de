"""aiohttp's WebSockets, past its queues: messages of one kind are heard as they come, frames go straight to the transport."""
