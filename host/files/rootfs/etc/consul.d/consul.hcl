# What every node's agent has in common. node.json, written at boot, has the rest.
data_dir = "/data/consul"
retry_interval = "2s"
rejoin_after_leave = true
# A restart is no departure: leaving would take the host's containers out of the edge.
leave_on_terminate = false
disable_update_check = true

acl {
  enabled = true
  default_policy = "deny"
  down_policy = "extend-cache"
}

# Names are answered from a cache that the servers keep current, and that serves on while they elect or are away.
discovery_max_stale = "1h"

dns_config {
  use_cache = true
  cache_max_age = "1h"
  allow_stale = true
  # Of many instances an answer has some, others each time, and does not say that it is cut short: dnsmasq would pass it on
  # without any, and a resolver that knows no TCP (musl up to 1.2.3) has nothing then. 8 is the most that Consul gives without EDNS.
  enable_truncate = false
  udp_answer_limit = 8
}

performance {
  raft_multiplier = 1
}

connect {
  enabled = false
}

ports {
  grpc = -1
  grpc_tls = -1
  # One datacenter: servers have no peers over a wide area, and its port is not open.
  serf_wan = -1
}
