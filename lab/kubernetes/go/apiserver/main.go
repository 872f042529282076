// An API server with etcd, and kubectl, chosen by the first argument: kube apiserver --secure-port=6443 ...
//
// Of versions of which not all parts can be had as Go modules. What it does is that of ../main.go.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
)

const usage = "usage: kube apiserver|kubectl|etcd [arguments]"

func fail(code int, message string) {
	fmt.Fprintln(os.Stderr, message)
	os.Exit(code)
}

func main() {
	if len(os.Args) < 2 {
		fail(2, usage)
	}
	name := os.Args[1]
	os.Args = os.Args[1:]
	var command *cobra.Command
	switch name {
	case "etcd":
		runEtcd()
		return
	case "apiserver":
		if os.Getenv("ETCD_DIR") != "" {
			startEtcd()
		}
		command = apiserver.NewAPIServerCommand()
	case "kubectl":
		command = kubectl.NewDefaultKubectlCommand()
	default:
		fail(2, usage)
	}
	os.Exit(cli.Run(command))
}
