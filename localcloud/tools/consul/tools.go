//go:build tools

// Package tools pins the module that "go build" fetches and builds; nothing imports it.
package tools

import _ "github.com/hashicorp/consul"
