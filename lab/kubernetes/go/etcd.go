package main

import (
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// loopback returns the URLs of a port that a variable names.
func loopback(variable string) []url.URL {
	address, err := url.Parse("http://127.0.0.1:" + os.Getenv(variable))
	if err != nil {
		fail(2, variable+": "+err.Error())
	}
	return []url.URL{*address}
}

// startEtcd returns when etcd serves: data in ETCD_DIR, on loopback at ETCD_PORT and ETCD_PEER_PORT.
// Nothing is synced to the disk: what is written survives the end of the process, not that of the machine.
func startEtcd() *embed.Etcd {
	config := embed.NewConfig()
	config.Dir, config.UnsafeNoFsync, config.LogLevel = os.Getenv("ETCD_DIR"), true, "error"
	config.ListenClientUrls = loopback("ETCD_PORT")
	config.AdvertiseClientUrls = config.ListenClientUrls
	config.ListenPeerUrls = loopback("ETCD_PEER_PORT")
	config.AdvertisePeerUrls = config.ListenPeerUrls
	// Who is alone need not wait for others: with the default of a second a start takes up to as long.
	config.TickMs, config.ElectionMs = 10, 100
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	server, err := embed.StartEtcd(config)
	if err != nil {
		fail(1, "etcd: "+err.Error())
	}
	select {
	case <-server.Server.ReadyNotify():
	case <-time.After(30 * time.Second):
		fail(1, "etcd: not ready within 30 s")
	}
	return server
}

// runEtcd serves until SIGTERM or SIGINT.
func runEtcd() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	server := startEtcd()
	<-stop
	server.Close()
}
