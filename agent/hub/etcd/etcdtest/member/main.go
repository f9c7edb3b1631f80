// Command member is an etcd server of the version in go.mod, for tests that need a cluster of processes to kill.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
