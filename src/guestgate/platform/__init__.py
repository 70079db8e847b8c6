"""The platform's Open API, of which we are the client: accounts, their sealed keys, and the calls."""
