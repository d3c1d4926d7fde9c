limits {
  # Requests a second that one slave sends to the servers. At rest it is a few; whatever runs wild here stays here.
  rpc_rate = 500
  rpc_max_burst = 1000
}
