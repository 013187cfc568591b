"""The records in Qdrant, and the requests that read and write them."""
