/* The part of libkrun's C API that msb calls, for trying the feature `krun-system` on machines whose
 * distribution has no libkrun package. Types as in libkrun 1.19. */
#ifndef LIBKRUN_H
#define LIBKRUN_H

#include <stdbool.h>
#include <stdint.h>

int32_t krun_init_log(int target_fd, uint32_t level, uint32_t style, uint32_t options);
int32_t krun_create_ctx(void);
int32_t krun_set_vm_config(uint32_t ctx_id, uint8_t num_vcpus, uint32_t ram_mib);
int32_t krun_disable_implicit_init(uint32_t ctx_id);
int32_t krun_disable_implicit_vsock(uint32_t ctx_id);
int32_t krun_disable_implicit_console(uint32_t ctx_id);
int32_t krun_add_virtio_console_multiport(uint32_t ctx_id);
int32_t krun_add_console_port_tty(uint32_t ctx_id, uint32_t console_id, const char *name, int tty_fd);
int32_t krun_add_console_port_inout(uint32_t ctx_id, uint32_t console_id, const char *name,
                                    int input_fd, int output_fd);
int32_t krun_add_disk3(uint32_t ctx_id, const char *block_id, const char *disk_path,
                       uint32_t disk_format, bool read_only, bool direct_io, uint32_t sync_mode);
int32_t krun_set_env(uint32_t ctx_id, const char *const envp[]);
int32_t krun_start_enter(uint32_t ctx_id);

#endif
