// The parts of Kubernetes in one binary, chosen by the first argument: kube apiserver --secure-port=6443 ...
//
// With ETCD_DIR in the environment `kube apiserver` runs etcd in its own process; `kube etcd` runs it alone.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

const usage = "usage: kube apiserver|controller-manager|scheduler|proxy|kubelet|kubectl|etcd [arguments]"

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
	case "controller-manager":
		command = controllermanager.NewControllerManagerCommand()
	case "scheduler":
		command = scheduler.NewSchedulerCommand()
	case "proxy":
		command = proxy.NewProxyCommand()
	case "kubelet":
		command = kubelet.NewKubeletCommand(context.Background())
	case "kubectl":
		command = kubectl.NewDefaultKubectlCommand()
	default:
		fail(2, usage)
	}
	os.Exit(cli.Run(command))
}
