"""The desired state becomes the text that the kernel tools, Squid and HAProxy read."""
