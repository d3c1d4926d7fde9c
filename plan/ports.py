"""The ports of the system, by name. Defaults of each product unless a comment says otherwise."""

SSH = 22
DNS = 53
HTTP = 80
HTTPS = 443
# Where an edge takes connections with the PROXY protocol, plain and with TLS. Ports of their own, so that an edge needs no
# new configuration when a load balancer is put before it.
EDGE_BEHIND_BALANCER = 8081
EDGE_BEHIND_BALANCER_TLS = 8444
# Statistics and metrics, for the overlay and the host itself.
EDGE_STATS = 8404

CONSUL_RPC = 8300
CONSUL_SERF = 8301
CONSUL_HTTP = 8500
CONSUL_DNS = 8600
# Where dnsmasq asks on a slave, of what keeps made-up names from the agent.
CONSUL_NAMES = 8601
# Where each host serves its metrics. Not node_exporter's own 9100: containers are kept from this port in the whole VPC, and may
# have somebody else's node exporters to scrape there.
METRICS = 8520
# Where dockerd tells its own, on a slave's loopback.
DOCKER_METRICS = 9323
# Where Consul's servers give each host the token of its own node.
CONSUL_TOKENS = 8510

# Weave Net's: control and sleeve, its fast datapath, and on the loopback its router's API and what that has to look at.
WEAVE = 6783
WEAVE_DATA = 6784
WEAVE_HTTP = 6784
WEAVE_STATUS = 6782
VXLAN = 4789
WIREGUARD = 51820

ZOOKEEPER_CLIENT = 2181
ZOOKEEPER_PEER = 2888
ZOOKEEPER_ELECTION = 3888

MESOS_MASTER = 5050
MESOS_AGENT = 5051
MARATHON = 8080
# Where masters speak to Marathon; by default it takes any free port.
MARATHON_SCHEDULER = 5052
