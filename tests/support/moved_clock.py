"""A wall clock that a test moves for the processes that it chooses: a small library that is loaded before libc.

The machine's own clock is everybody's, a time namespace has none of its own (time_namespaces(7)), and libfaketime
touches more than it is told to: Python's time.sleep() fails with it. Here CLOCK_REALTIME moves, as after
settimeofday(2), and nothing else.
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static volatile long *seconds;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("MOVED_CLOCK"), O_RDONLY | O_CLOEXEC);
    seconds = file < 0 ? NULL : mmap(NULL, sizeof *seconds, PROT_READ, MAP_SHARED, file, 0);
    real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
}

int clock_gettime(clockid_t clock, struct timespec *out) {
    int result = real(clock, out);
    if (result == 0 && seconds != NULL && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        out->tv_sec += *seconds;
    return result;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out != NULL)
        *out = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *out, void *zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""


class MovedClock:
    """The clock of all processes that are started with ``environment``, ``hours`` ahead of the machine's."""

    def __init__(self, folder: Path, name: str, hours: float = 0.0) -> None:
        self._file = folder / f"{name}.clock"
        library = folder / "moved_clock.so"
        if not library.exists():
            source = folder / "moved_clock.c"
            source.write_text(_SOURCE)
            subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        self.hours = hours
        self._file.write_bytes(bytes(8))
        self.move(0)
        self.environment = {"LD_PRELOAD": str(library), "MOVED_CLOCK": str(self._file)}

    def move(self, hours: float) -> None:
        """Set it so many hours forward, or back."""
        self.hours += hours
        with self._file.open("r+b") as file:
            file.write(struct.pack("=q", round(self.hours * 3600)))
