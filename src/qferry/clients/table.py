"""
What becomes of every public name of qdrant-client's clients.

A name that is not in this table is refused, not passed through: a method this version has never heard of may write.
tests/clients/test_table.py fails when upstream adds one, and when an entry here has no method any more.
"""

from __future__ import annotations

from enum import Enum


class Kind(Enum):
    """How a public name is treated."""

    READ = "read"  # from the source or, for the read share, from the target
    WRITE = "write"  # points; to one side or to both, journalled
    UPLOAD = "upload"  # like WRITE, piece by piece
    CONFIGURE = "configure"  # configuration and payload indexes; to one side or to both
    ON_TRUTH = "on_truth"  # concerns the collection itself; on the side that is truth
    GUARDED = "guarded"  # refused while a migration has the collection in hand
    ALIASES = "aliases"  # refused if it names a collection of a live migration
    COMPOSED = "composed"  # made by upstream of the methods above; passed through (upstream < 1.19)
    SERVER = "server"  # names no collection; passed through
    RAW = "raw"  # a handle behind qferry's back; refused unless `allow_raw`
    REFUSED = "refused"  # would copy or write behind qferry's back


TABLE: dict[str, Kind] = {
    "query_points": Kind.READ,
    "query_batch_points": Kind.READ,
    "query_points_groups": Kind.READ,
    "search_matrix_pairs": Kind.READ,
    "search_matrix_offsets": Kind.READ,
    "scroll": Kind.READ,
    "count": Kind.READ,
    "facet": Kind.READ,
    "retrieve": Kind.READ,
    "get_collection": Kind.READ,
    "collection_exists": Kind.READ,
    "upsert": Kind.WRITE,
    "delete": Kind.WRITE,
    "set_payload": Kind.WRITE,
    "overwrite_payload": Kind.WRITE,
    "delete_payload": Kind.WRITE,
    "clear_payload": Kind.WRITE,
    "update_vectors": Kind.WRITE,
    "delete_vectors": Kind.WRITE,
    "batch_update_points": Kind.WRITE,
    "upload_points": Kind.UPLOAD,
    "upload_collection": Kind.UPLOAD,
    "create_payload_index": Kind.CONFIGURE,
    "delete_payload_index": Kind.CONFIGURE,
    "update_collection": Kind.CONFIGURE,
    "create_vector_name": Kind.CONFIGURE,
    "delete_vector_name": Kind.CONFIGURE,
    "get_collection_aliases": Kind.ON_TRUTH,
    "get_optimizations": Kind.ON_TRUTH,
    "collection_cluster_info": Kind.ON_TRUTH,
    "list_shard_keys": Kind.ON_TRUTH,
    "create_snapshot": Kind.ON_TRUTH,
    "list_snapshots": Kind.ON_TRUTH,
    "delete_snapshot": Kind.ON_TRUTH,
    "create_shard_snapshot": Kind.ON_TRUTH,
    "list_shard_snapshots": Kind.ON_TRUTH,
    "delete_shard_snapshot": Kind.ON_TRUTH,
    "create_collection": Kind.GUARDED,
    "recreate_collection": Kind.GUARDED,
    "delete_collection": Kind.GUARDED,
    "recover_snapshot": Kind.GUARDED,
    "recover_shard_snapshot": Kind.GUARDED,
    "create_shard_key": Kind.GUARDED,
    "delete_shard_key": Kind.GUARDED,
    "cluster_collection_update": Kind.GUARDED,
    "update_collection_aliases": Kind.ALIASES,
    "get_aliases": Kind.SERVER,
    "get_collections": Kind.SERVER,
    "info": Kind.SERVER,
    "cluster_status": Kind.SERVER,
    "cluster_telemetry": Kind.SERVER,
    "recover_current_peer": Kind.SERVER,
    "remove_peer": Kind.SERVER,
    "create_full_snapshot": Kind.SERVER,
    "list_full_snapshots": Kind.SERVER,
    "delete_full_snapshot": Kind.SERVER,
    "close": Kind.SERVER,
    "init_options": Kind.SERVER,
    "DEFAULT_BATCH_SIZE": Kind.SERVER,
    "get_embedding_size": Kind.SERVER,
    "list_text_models": Kind.SERVER,
    "list_image_models": Kind.SERVER,
    "list_late_interaction_text_models": Kind.SERVER,
    "list_late_interaction_multimodal_models": Kind.SERVER,
    "list_sparse_models": Kind.SERVER,
    "add": Kind.COMPOSED,
    "query": Kind.COMPOSED,
    "query_batch": Kind.COMPOSED,
    "set_model": Kind.SERVER,
    "set_sparse_model": Kind.SERVER,
    "embedding_model_name": Kind.SERVER,
    "sparse_embedding_model_name": Kind.SERVER,
    "get_vector_field_name": Kind.SERVER,
    "get_sparse_vector_field_name": Kind.SERVER,
    "get_fastembed_vector_params": Kind.SERVER,
    "get_fastembed_sparse_vector_params": Kind.SERVER,
    "DEFAULT_EMBEDDING_MODEL": Kind.SERVER,
    "http": Kind.RAW,
    "grpc_points": Kind.RAW,
    "grpc_collections": Kind.RAW,
    "migrate": Kind.REFUSED,
}

# Kinds whose first argument is the collection.
ROUTED = frozenset(
    {Kind.READ, Kind.WRITE, Kind.UPLOAD, Kind.CONFIGURE, Kind.ON_TRUTH, Kind.GUARDED},
)
