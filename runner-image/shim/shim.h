/* What the two parts of the shim share. See shim.c for what it is. */
#ifndef WINDLASS_SHIM_H
#define WINDLASS_SHIM_H

#include <stddef.h>

/* Messages, one letter and a body, on a SOCK_SEQPACKET socket: a message arrives whole or not at all.
 *
 * shim -> runner                                     runner -> shim
 * S value     a value to keep out of the log         G NAME=VALUE\0...   start the command; two descriptors ride
 * R           ready                                                      along: the ends to write output to
 * E text      the command cannot be started          K number            signal to the command's process group
 * M bytes     memory of the container                B number            the end is committed: exit with this code
 * T           the pod must end (SIGTERM)
 * X status errno signal kills limit peak    the command has ended: its wait status; why the result file cannot be opened
 *             (0: its descriptor rides along; ENOENT: there is none); the first signal that the runner asked for before the
 *             end (0: none, the command came to its end by itself); and of the container's memory the kills since the
 *             command's start, the limit and the peak in bytes (0: unknown)
 */
enum { LONGEST_MESSAGE = 192 * 1024 };

/* Connect to the runner's socket; -1 while nobody listens. */
int connect_runner(const char *path);

/* Send one message; a descriptor rides along unless it is -1. Returns 0, or -1 when the runner is gone. */
int send_message(int socket, char tag, const char *body, size_t size, int descriptor);

/* Receive one message into a static buffer, ended by a NUL byte; up to two descriptors go to `descriptors`, -1 for those
 * that did not come. Returns the size of the body, or -1 when the runner is gone. */
long receive_message(int socket, char *tag, char **body, int descriptors[2]);

/* Copy this very program to `target`. Returns an exit code. */
int install(const char *target);

/* Bytes of memory that the container uses, or -1 where that cannot be read. */
long memory_used(void);

/* The limit of the container's memory and the most that it ever used, in bytes; 0 where that cannot be read. */
long memory_limit(void);
long memory_peak(void);

/* How often the kernel ended a process of this container for its memory; 0 where that cannot be read. */
long oom_kills(void);

#endif
