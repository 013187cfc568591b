"""The two clients an application uses in place of qdrant-client's."""
