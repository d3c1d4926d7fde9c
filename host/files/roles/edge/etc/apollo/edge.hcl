# consul-template for the edge. Consul away: what was written last serves, and it asks again without end.
consul {
  address = "127.0.0.1:8500"
  token_file = "/etc/apollo/secrets/consul/template-token"
  retry {
    attempts = 0
    backoff = "250ms"
    max_backoff = "2s"
  }
}

template {
  source = "/etc/apollo/services.ctmpl"
  # To the side: only what HAProxy accepts takes the place of what runs.
  destination = "/var/lib/apollo/services.cfg"
  command = ["/usr/local/bin/apollo", "edge", "apply"]
  command_timeout = "60s"
}
