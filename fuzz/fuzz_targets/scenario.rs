#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lora_asymptotics_fuzz::scenario(data));
