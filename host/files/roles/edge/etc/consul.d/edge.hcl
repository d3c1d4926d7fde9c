# The edge's template holds one connection for each published service.
limits {
  http_max_conns_per_client = 10000
}
